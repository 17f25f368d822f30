"""Programs that run on nodes, by whatever Python the guest has; nothing imports them."""
