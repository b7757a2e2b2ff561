"""What runs inside containers; nothing on the host imports it."""
