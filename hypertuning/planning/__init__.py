"""What a training step costs on TPUs that are not there."""
