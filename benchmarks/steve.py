"""STEVE-1 on vpt_gym's network beside its own forward, in turn, as a Markdown table.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/steve.py --preset 2x --rows 1,4

The policy is MineStudio's SteveOnePolicy with random weights: a step's time does not depend on their values. Both ways step the
same frames under the same instruction, guided; they agree to the difference in the last column. Needs MineStudio.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np
import torch
from shared import facts, folder, machine_words, markdown, parser, save

from vpt_gym.bench.candidates import frames_in_turn
from vpt_gym.bench.pictures import Pictures, load_pictures
from vpt_gym.config import PRESETS
from vpt_gym.encoders.minestudio import encoder_from_policy
from vpt_gym.encoders.minestudio.package import import_minestudio
from vpt_gym.weights.saving import policy_options

WARM_UP = 3
MINECLIP = {
    "arch": "vit_base_p16_fz.v2.t2",
    "hidden_dim": 512,
    "image_feature_dim": 512,
    "mlp_adapter_spec": "v0-2.t0",
    "pool_type": "attn.d2.nh8.glusw",
    "resolution": [160, 256],
}
"""Sizes of the published MineCLIP. It takes no part in a step: the instruction comes embedded."""


def main() -> None:
    options = parser("steve", __doc__)
    options.add_argument("--preset", default="2x", choices=sorted(PRESETS), help="size of the trunk (default: 2x)")
    options.add_argument("--rows", default="1,4", help="numbers of environments, with commas between (default: 1,4)")
    options.add_argument("--cond-scale", type=float, default=4.0, help="strength of the guidance (default: 4)")
    options.add_argument("--steps", type=int, default=12, help="measured steps of each way (default: 12)")
    options.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: cpu)")
    arguments = options.parse_args()
    out = folder("steve", arguments.out)
    device = torch.device(arguments.device)
    body = import_minestudio("minestudio.models.steve_one.body")
    torch.manual_seed(0)
    policy = body.SteveOnePolicy(mineclip_kwargs=MINECLIP, policy_kwargs=policy_options(PRESETS[arguments.preset]))
    policy = policy.eval().requires_grad_(False).to(device)
    embedded = np.random.default_rng(0).standard_normal(512).astype(np.float32)
    condition = {"mineclip_embeds": embedded, "cond_scale": arguments.cond_scale}
    encoders = {way: encoder_from_policy(policy, condition, network=way) for way in ("vpt_gym", "policy")}
    pictures = load_pictures((), 128)

    record = facts(device, arguments)
    record["seconds"] = {}
    lines = [("Rows", "vpt_gym's network, ms", "policy's forward, ms", "faster", "largest difference")]
    for rows in map(int, arguments.rows.split(",")):
        seconds, difference = measure(encoders, pictures, rows, arguments.steps)
        record["seconds"][rows] = seconds
        own, theirs = median(seconds["vpt_gym"]), median(seconds["policy"])
        lines.append(
            (str(rows), f"{own * 1e3:.0f}", f"{theirs * 1e3:.0f}", f"{theirs / own:.2f}x", f"{difference:.1e}")
        )
    print(f"SteveOnePolicy {arguments.preset}, cond_scale {arguments.cond_scale:g}: {encoders['vpt_gym'].backend}\n")
    print(machine_words(record) + "\n")
    print(markdown(lines))
    save(out, "steve", record)


def measure(
    encoders: dict[str, Any], pictures: Pictures, rows: int, steps: int
) -> tuple[dict[str, list[float]], float]:
    """Seconds of the steps of each way, and the largest difference between their latents."""
    streams = {way: encoder.stream(rows) for way, encoder in encoders.items()}
    seconds: dict[str, list[float]] = {way: [] for way in streams}
    next_frames, difference = frames_in_turn(pictures, rows), 0.0
    for step in range(WARM_UP + steps):
        frames, first = next_frames(), np.full(rows, step == 0)
        latents = {}
        for way, stream in streams.items():
            start = time.perf_counter()
            latents[way] = stream.step(frames, first).cpu()  # waits for the device
            seconds[way].append(time.perf_counter() - start)
        difference = max(difference, float((latents["vpt_gym"] - latents["policy"]).abs().max()))
        print(f"{rows} rows: step {step + 1} of {WARM_UP + steps}", flush=True)
    return {way: values[WARM_UP:] for way, values in seconds.items()}, difference


if __name__ == "__main__":
    main()
