"""What an agent sees, does and is rewarded for, on a batch of simulations; environments are shells around it."""
