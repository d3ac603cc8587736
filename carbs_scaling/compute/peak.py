"""Peak FLOPs a second of known GPUs, for utilisation."""

# Dense bfloat16 peaks by the vendor's data sheets, in FLOP/s, by a part of PyTorch's name of the device.
PEAK_FLOPS_PER_SECOND = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}


def peak_flops_per_second(device: str) -> float | None:
    """Of a device by PyTorch's name, such as `NVIDIA H100 80GB HBM3`; None where it is not known."""
    return next((peak for name, peak in PEAK_FLOPS_PER_SECOND.items() if name in device), None)
