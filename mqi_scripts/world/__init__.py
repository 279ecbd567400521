"""The world: ledger, locks, folders, processes, hosts. Effects live here."""
