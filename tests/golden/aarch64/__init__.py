"""The device's package on another processor: 64-bit ARM, as in phones, under QEMU."""
