"""What mqi-demo shows: a made-up case and a small computation on it."""
