"""What models cost on this machine, in PyTorch and in other runtimes, teacher beside student."""
