"""Electrochemistry and heat of a solid-oxide electrolysis stack, as plain functions.

Sources
  free energy and enthalpy of formation of steam: M. W. Chase, NIST-JANAF Thermochemical Tables,
      4th edition, J. Phys. Chem. Ref. Data, Monograph 9 (1998), table of H2O(g)
  area-specific resistance over temperature: J. E. O'Brien, M. G. McKellar, E. A. Harvego and
      C. M. Stoots, Int. J. Hydrogen Energy 35 (2010) 4808-4819
  zero-dimensional energy balance of a stack: F. Petipas, A. Brisse and C. Bouallou,
      J. Power Sources 239 (2013) 584-595
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Final

FARADAY_C_PER_MOL: Final = 96_485.332
GAS_CONSTANT_J_PER_MOL_K: Final = 8.314_462_6
KELVIN: Final = 273.15
NORM_LITRE_PER_MOL: Final = 22.414  # at 0 degC and 101.325 kPa

# H2 + 1/2 O2 -> H2O(g): temperature in K, enthalpy and free energy of formation in kJ/mol.
_FORMATION: Final = (
    (298.15, -241.826, -228.582),
    (500.0, -243.826, -219.051),
    (700.0, -245.632, -208.812),
    (900.0, -247.185, -198.083),
    (1000.0, -247.857, -192.590),
    (1100.0, -248.460, -187.033),
    (1200.0, -248.997, -181.425),
    (1300.0, -249.473, -175.774),
)
_FORMATION_K: Final = tuple(row[0] for row in _FORMATION)


def _formation_kj_per_mol(temperature_k: float) -> tuple[float, float]:
    """Enthalpy and free energy of formation of steam, linear between rows of the table."""
    low = min(max(bisect_right(_FORMATION_K, temperature_k) - 1, 0), len(_FORMATION) - 2)
    (t0, h0, g0), (t1, h1, g1) = _FORMATION[low : low + 2]
    share = min(max((temperature_k - t0) / (t1 - t0), 0.0), 1.0)
    return h0 + share * (h1 - h0), g0 + share * (g1 - g0)


def thermoneutral_v(temperature_k: float) -> float:
    """Voltage of one cell, in V, at which the reaction takes up exactly the Joule heat."""
    return -_formation_kj_per_mol(temperature_k)[0] * 1000 / (2 * FARADAY_C_PER_MOL)


def open_circuit_v(temperature_k: float, steam: float, hydrogen: float, oxygen: float) -> float:
    """Nernst voltage of one cell, in V, at atmospheric pressure.

    steam, hydrogen   mole fractions at the steam electrode, 0 to 1
    oxygen            mole fraction at the air electrode
    """
    standard_v = -_formation_kj_per_mol(temperature_k)[1] * 1000 / (2 * FARADAY_C_PER_MOL)
    ratio = max(hydrogen, 1e-4) * math.sqrt(max(oxygen, 1e-4)) / max(steam, 1e-4)
    thermal_v = GAS_CONSTANT_J_PER_MOL_K * temperature_k / (2 * FARADAY_C_PER_MOL)
    return standard_v + thermal_v * math.log(ratio)


def resistance_ohm_cm2(temperature_k: float, at_1100_k: float) -> float:
    """Area-specific resistance, in ohm cm2, from its value at 1100 K.

    Grows without bound when the electrolyte is cold; limited to 1e6.
    """
    exponent = min(10_300 / max(temperature_k, 200.0), 60.0)
    return min(at_1100_k - 0.463 + 3.973e-5 * math.exp(exponent), 1e6)


def hydrogen_slpm(current_a: float, cells: int) -> float:
    """Hydrogen that `cells` cells in series make, in norm litres a minute (Faraday's law)."""
    return current_a * cells / (2 * FARADAY_C_PER_MOL) * NORM_LITRE_PER_MOL * 60


def steam_limit_a(steam_mol_per_s: float, cells: int) -> float:
    """Current that would use up all the steam, in A."""
    return 2 * FARADAY_C_PER_MOL * steam_mol_per_s / cells


@dataclass(frozen=True, slots=True)
class Stack:
    """A short stack in an electric furnace.

    The defaults are ten cells of 64 cm2 that run near thermoneutral, 1.29 V a cell, at 30 A and
    800 degC with 80 % steam.

    capacity_j_per_k   heat capacity of stack and hot box together
    loss_w_per_k       conductance from the hot box to the room
    furnace_w_max      power of the furnace
    gain_w_per_k       furnace controller: proportional to the error, on top of the known losses
    """

    cells: int = 10
    area_cm2: float = 64.0
    resistance_1100_k_ohm_cm2: float = 0.76
    capacity_j_per_k: float = 16_000.0
    loss_w_per_k: float = 1.0
    furnace_w_max: float = 3_000.0
    gain_w_per_k: float = 60.0

    def mole_fractions(
        self, steam_mol_per_s: float, hydrogen_mol_per_s: float, current_a: float
    ) -> tuple[float, float]:
        """Mean mole fractions (steam, hydrogen) between inlet and outlet of the steam side."""
        total = steam_mol_per_s + hydrogen_mol_per_s
        if total < 1e-9:
            return 0.01, 0.99  # what is left in the pipes: hydrogen that the stack made
        half_turned = current_a * self.cells / (4 * FARADAY_C_PER_MOL)
        steam = min(max((steam_mol_per_s - half_turned) / total, 0.01), 0.99)
        return steam, 1.0 - steam

    def furnace_w(self, temperature_degc: float, setpoint_degc: float, room_degc: float) -> float:
        """Power that the furnace controller asks for, in W."""
        losses = self.loss_w_per_k * (setpoint_degc - room_degc)
        wanted = losses + self.gain_w_per_k * (setpoint_degc - temperature_degc)
        return min(max(wanted, 0.0), self.furnace_w_max)

    def heating_k_per_s(
        self,
        temperature_degc: float,
        room_degc: float,
        furnace_w: float,
        current_a: float,
        cell_v: float,
    ) -> float:
        """How fast the stack's temperature rises, in K/s of the model's own time.

        Furnace + Joule and reaction heat (current x distance from thermoneutral) - losses.
        """
        reaction_w = self.cells * current_a * (cell_v - thermoneutral_v(temperature_degc + KELVIN))
        losses_w = self.loss_w_per_k * (temperature_degc - room_degc)
        return (furnace_w + reaction_w - losses_w) / self.capacity_j_per_k
