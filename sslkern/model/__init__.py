"""A roofline model of CUDA kernels, from what the emulation counts: ``python -m sslkern model``.

A model, not a measurement: nothing here has run on a GPU. ``emulation`` finds the emulation of a
source checkout, ``counts`` reads what it counts, ``fit`` takes counts from small sizes to large
ones, ``gpus`` has the ceilings, ``roofline`` divides one by the other. ``operators`` says what is
run at which size, ``runs`` does it.
"""
