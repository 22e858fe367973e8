"""A roofline model of CUDA kernels, from what the emulation counts: ``python -m sslkern model``.

A model, not a measurement: nothing here has run on a GPU. ``emulation`` finds the emulation of a
source checkout, ``counts`` reads what it counts, ``runs`` counts a loss, ``gpus`` has the ceilings,
``roofline`` divides one by the other. ``work`` says what an operator of the model is: those of
``walking`` are counted at small sizes, which ``fit`` takes to large ones, those of ``whole`` at
their own; ``operators`` has all.
"""
