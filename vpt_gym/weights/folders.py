"""Checkpoints that are folders of shards from many processes, which only the tool that wrote them can join."""

from __future__ import annotations

from pathlib import Path

__all__ = ["joining_tool"]


def joining_tool(folder: Path) -> str | None:
    """What kind of checkpoint a folder is and how its parts are joined into one file, as a phrase; None for other folders."""
    names = {entry.name for entry in folder.iterdir()}
    inner = {entry.name for entry in (folder / "checkpoint").iterdir()} if (folder / "checkpoint").is_dir() else set()
    if "zero_to_fp32.py" in names or any("zero_pp_rank_" in name or "mp_rank_" in name for name in names | inner):
        return (
            "a checkpoint of DeepSpeed in parts: join them by DeepSpeed's own tool, `python -m "
            f"deepspeed.utils.zero_to_fp32 {folder} OUTPUT` (zero_to_fp32.py lies in most such folders too)"
        )
    if ".metadata" in names or any(name.endswith(".distcp") for name in names):
        if "meta.pt" in names:
            return (
                "a checkpoint of Lightning's FSDP in parts: join them by Lightning's own tool, `python -m "
                f"lightning.pytorch.utilities.consolidate_checkpoint {folder} --output_file OUTPUT.ckpt`"
            )
        return (
            "a checkpoint of torch.distributed (FSDP) in parts: join them by torch's own tool, `python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {folder} OUTPUT.pt`"
        )
    return None
