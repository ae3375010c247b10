"""What `qlens doctor` checks: the machine, and one configuration."""
