"""Programs that run on nodes, with the guest's own Python; nothing imports them."""
