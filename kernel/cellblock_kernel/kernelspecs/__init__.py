"""How front ends find kernels in containers: kernelspecs, as jupyter_client documents them."""
