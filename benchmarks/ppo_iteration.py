"""A PPO iteration on latents beside one with VPT inside the policy, and the bytes of SB3's real buffers, as Markdown.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/ppo_iteration.py --encoder random:2x --steps 128

8 environments that hand out prepared frames, 10 epochs, minibatches of 64, a linear head. What is compared, and what is
generous to which side, stands in vpt_gym/bench/policy.py; `vpt-gym bench --against policy` measures the same.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from shared import add_encoder, encoder_words, facts, folder, load, machine_words, save

from vpt_gym.bench.pictures import load_pictures
from vpt_gym.bench.policy import compare_iterations
from vpt_gym.bench.report import markdown, policy_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_encoder(parser)
    parser.add_argument("--steps", type=int, default=128, help="steps of each environment (default: 128)")
    parser.add_argument("--out", type=Path, help="folder for the JSON (default: runs/ppo_iteration-<time>)")
    arguments = parser.parse_args()
    out = folder("ppo_iteration", arguments.out)
    encoder = load(arguments)
    record = facts(encoder.device, arguments)
    found = compare_iterations(
        encoder,
        load_pictures(),
        n_steps=arguments.steps,
        progress=lambda share: print(f"{share:.0%}", file=sys.stderr),
    )
    record["policy"] = found
    print(
        f"One PPO iteration: {found['n_envs']} environments, {found['n_steps']} steps, {found['n_epochs']} epochs, minibatches "
        f"of {found['minibatch']}; {encoder_words(encoder)}. {machine_words(record)}\n"
    )
    print(markdown(policy_rows(found), left=(0,)))
    print(
        f"\n{found['speed_over_extractor']:.1f} times faster; observations {found['observations_smaller']:.1f} times smaller."
    )
    save(out, "ppo_iteration", record)


if __name__ == "__main__":
    main()
