"""The pure part of the host: regions, addresses, charges and conversations. Never waits."""
