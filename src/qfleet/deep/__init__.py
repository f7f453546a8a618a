"""Deep Q-networks: networks, targets, losses, the learner and the actor."""
