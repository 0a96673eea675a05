"""Value-Guided Decision Transformer: critic, policy, planner and the training around them."""
