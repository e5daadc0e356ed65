"""Recordings to try docs/recording.md on, of a simulated axon after Hodgkin and Huxley.

    python docs/axon.py

writes to outputs/ five sweeps under currents that jump, axon_0.csv to axon_4.csv, and steady.csv, under a constant one.
"""

from pathlib import Path

import numpy as np
from scipy.special import exprel  # (exp(x) - 1) / x, and 1 at x = 0

DT = 0.05  # ms


def axon(I):
    """Voltages in mV (T, N) of N axons at rest under currents in µA/cm² (T, N), each held for DT."""
    V, gates = np.full(I.shape[1], -65.0), np.array([[0.053], [0.596], [0.318]])  # m, h, n
    voltages = np.empty(I.shape)
    for t, current in enumerate(I):
        voltages[t] = V
        opening = 1 / exprel(-(V + 40) / 10), 0.07 * np.exp(-(V + 65) / 20), 0.1 / exprel(-(V + 55) / 10)
        closing = 4 * np.exp(-(V + 65) / 18), 1 / (1 + np.exp(-(V + 35) / 10)), 0.125 * np.exp(-(V + 65) / 80)
        rate = np.add(opening, closing)
        gates = opening / rate + (gates - opening / rate) * np.exp(-DT * rate)  # exact while V is held
        m, h, n = gates
        sodium, potassium, leak = 120 * m**3 * h, 36 * n**4, 0.3
        total = sodium + potassium + leak
        end = (50 * sodium - 77 * potassium - 54.4 * leak + current) / total  # to which V is drawn
        V = end + (V - end) * np.exp(-DT * total)
    return voltages


def main(num_sweeps=5, duration=1000):
    rng = np.random.default_rng(0)
    t = np.arange(0, duration, DT)
    shape = len(t), num_sweeps + 1
    jumps = np.where(rng.random(shape) < DT / 20, np.arange(len(t))[:, None], 0)  # one in 20 ms
    I = np.take_along_axis(rng.uniform(-2, 16, shape), np.maximum.accumulate(jumps), axis=0)
    I[:, -1] = 10
    V = axon(I) + 0.3 * rng.standard_normal(shape)  # an electrode's noise
    Path("outputs").mkdir(exist_ok=True)
    header = {"header": "time_ms,current_uA_per_cm2,voltage_mV", "comments": ""}
    for k, name in enumerate([*(f"axon_{k}" for k in range(num_sweeps)), "steady"]):
        np.savetxt(f"outputs/{name}.csv", np.column_stack([t, I[:, k], V[:, k]]), "%.3f", ",", **header)


if __name__ == "__main__":
    main()
