"""The ledger's care: whether it is whole, mending it, keeping copies, and telling it anew from what the world can prove.

Nothing of the line imports it: mqi-ledger does.
"""
