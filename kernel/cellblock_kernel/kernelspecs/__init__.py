"""Kernelspecs of kernels in containers: made, installed, listed, removed."""
