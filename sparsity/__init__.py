"""What a pruned matrix is: structures as values, detection, packed forms, exact sizes. numpy only."""

from espalier.sparsity.backbone import BPPP, PackedBPPP
from espalier.sparsity.block import Block, PackedBlock
from espalier.sparsity.columns import BP, PackedBP
from espalier.sparsity.detection import Detection, Remainder, detect
from espalier.sparsity.hierarchical import HP, NM, PackedHP
from espalier.sparsity.patterns import PP, PackedPP, assign_patterns, importance_patterns, refine_patterns
from espalier.sparsity.plain import Dense, PackedDense, PackedZero, Zero
from espalier.sparsity.serial import from_bytes, payload, to_bytes
from espalier.sparsity.sizes import BCSR_BLOCKS, is_hp, sizes
from espalier.sparsity.structure import Packed, Structure
from espalier.sparsity.unstructured import PackedUnstructured, Unstructured

__all__ = [
    "BCSR_BLOCKS",
    "BP",
    "BPPP",
    "HP",
    "NM",
    "PP",
    "Block",
    "Dense",
    "Detection",
    "Packed",
    "PackedBP",
    "PackedBPPP",
    "PackedBlock",
    "PackedDense",
    "PackedHP",
    "PackedPP",
    "PackedUnstructured",
    "PackedZero",
    "Remainder",
    "Structure",
    "Unstructured",
    "Zero",
    "assign_patterns",
    "detect",
    "from_bytes",
    "importance_patterns",
    "is_hp",
    "payload",
    "refine_patterns",
    "sizes",
    "to_bytes",
]
