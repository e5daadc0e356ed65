"""Recordings to try docs/recording.md on, of a simulated axon after Hodgkin and Huxley.

    python extras/axon.py

writes to outputs/ five sweeps under currents that jump, axon_0.csv to axon_4.csv, and
steady.csv, under a constant one.
Source: Hodgkin and Huxley (1952), https://doi.org/10.1113/jphysiol.1952.sp004764
"""

from pathlib import Path

import numpy as np
from scipy.special import exprel  # (exp(x) - 1) / x, and 1 at x = 0

DT = 0.05  # ms
OUT_DIR = Path("outputs")
HEADER = "time_ms,current_uA_per_cm2,voltage_mV"

# the membrane, whose capacitance is 1 µF/cm²
G_NA = 120.0  # mS/cm², with all gates open: sodium, potassium, leak
G_K = 36.0
G_LEAK = 0.3
E_NA = 50.0  # mV, to which each of them draws V
E_K = -77.0
E_LEAK = -54.4
REST_V = -65.0  # mV
REST_GATES = np.array([[0.053], [0.596], [0.318]])  # m, h and n at rest, from 0 to 1

# the recordings
LOWEST_CURRENT = -2.0  # µA/cm²
HIGHEST_CURRENT = 16.0
MEAN_HOLD = 20.0  # ms from one jump of the current to the next
STEADY_CURRENT = 10.0
NOISE_STD = 0.3  # mV, an electrode's


def axon(I):
    """Simulate N axons at rest under currents I (T, N) in µA/cm², each held for DT.

    Returns the voltages (T, N) in mV.
    """
    V = np.full(I.shape[1], REST_V)
    gates = REST_GATES
    voltages = np.empty(I.shape)
    for t, current in enumerate(I):
        voltages[t] = V
        gates = step_gates(gates, V)
        V = step_voltage(V, gates, current)
    return voltages


def step_gates(gates, V):
    """The gates m, h and n, stacked (3, N), DT later: exact while V (N,) is held."""
    opening = np.stack(
        [
            1 / exprel(-(V + 40) / 10),
            0.07 * np.exp(-(V + 65) / 20),
            0.1 / exprel(-(V + 55) / 10),
        ]
    )
    closing = np.stack(
        [
            4 * np.exp(-(V + 65) / 18),
            1 / (1 + np.exp(-(V + 35) / 10)),
            0.125 * np.exp(-(V + 65) / 80),
        ]
    )
    rate = opening + closing
    end = opening / rate  # to which a gate is drawn
    return end + (gates - end) * np.exp(-DT * rate)


def step_voltage(V, gates, current):
    """The voltages V (N,), DT later: exact while the gates (3, N) are held."""
    m, h, n = gates
    g_Na = G_NA * m**3 * h
    g_K = G_K * n**4
    total = g_Na + g_K + G_LEAK
    # to which V is drawn
    end = (g_Na * E_NA + g_K * E_K + G_LEAK * E_LEAK + current) / total
    return end + (V - end) * np.exp(-DT * total)


def draw_currents(rng, num_samples, num_sweeps):
    """Draw currents (num_samples, num_sweeps) that jump to a new level now and then."""
    shape = (num_samples, num_sweeps)
    jumps = rng.random(shape) < DT / MEAN_HOLD
    levels = rng.uniform(LOWEST_CURRENT, HIGHEST_CURRENT, shape)
    I = levels.copy()
    for t in range(1, num_samples):
        I[t] = np.where(jumps[t], levels[t], I[t - 1])
    return I


def main(num_sweeps=5, duration=1000):
    """Write num_sweeps sweeps of `duration` ms, and the steady one."""
    rng = np.random.default_rng(0)
    t = np.arange(0, duration, DT)
    I = draw_currents(rng, len(t), num_sweeps + 1)
    I[:, -1] = STEADY_CURRENT
    V = axon(I) + NOISE_STD * rng.standard_normal(I.shape)
    names = [f"axon_{k}" for k in range(num_sweeps)]
    names.append("steady")
    OUT_DIR.mkdir(exist_ok=True)
    for k, name in enumerate(names):
        columns = np.column_stack([t, I[:, k], V[:, k]])
        np.savetxt(
            OUT_DIR / f"{name}.csv",
            columns,
            fmt="%.3f",
            delimiter=",",
            header=HEADER,
            comments="",
        )


if __name__ == "__main__":
    main()
