"""Import and export of PyTorch state dicts, without PyTorch.

state_dict = torch_import.load("teacher.pth")
variables = torch_import.convert("wrn_16_2", state_dict, num_classes=10)
"""

from kdjax.torch_import.conversion import convert, count_classes, export
from kdjax.torch_import.files import load

__all__ = ["convert", "count_classes", "export", "load"]
