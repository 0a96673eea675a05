"""D4RL's two mazes written down literally as MuJoCo models, from the numbers in its sources, in its own coordinates."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

UMAZE = ("#####", "#GOO#", "###O#", "#OOO#", "#####")
MEDIUM = ("########", "#OO##OO#", "#OO#OOO#", "##OOO###", "#OO#OOO#", "#O#OO#O#", "#OOO#OG#", "########")


class PointMaze:
    """A ball of radius 0.1 and density 1000 on two sliders, pushed with up to 100 N, between boxes of side 1."""

    def __init__(self, maze: tuple[str, ...]) -> None:
        walls = "".join(
            f'<geom type="box" pos="{row + 1.0} {column + 1.0} 0" size="0.5 0.5 0.2"/>'
            for row, line in enumerate(maze)
            for column, what in enumerate(line)
            if what == "#"
        )
        self.model: Any = mujoco.MjModel.from_xml_string(
            f"""<mujoco><compiler angle="radian" inertiafromgeom="true"/>
            <option timestep="0.01" gravity="0 0 0" iterations="20" integrator="Euler"/>
            <default><joint damping="1" limited="false"/>
              <geom friction=".5 .1 .1" density="1000" margin="0.002" condim="1" contype="2" conaffinity="1"/></default>
            <worldbody><geom type="plane" size="40 40 0.25" pos="0 0 -0.1" contype="1" conaffinity="0"/>
              <body pos="1.2 1.2 0"><geom type="sphere" size="0.1" contype="1"/>
                <joint name="x" type="slide" axis="1 0 0"/><joint name="y" type="slide" axis="0 1 0"/></body>
              {walls}</worldbody>
            <actuator><motor joint="x" ctrlrange="-1 1" ctrllimited="true" gear="100"/>
              <motor joint="y" ctrlrange="-1 1" ctrllimited="true" gear="100"/></actuator></mujoco>"""
        )
        self.data: Any = mujoco.MjData(self.model)

    def step(self, observation: Vector, action: Vector) -> tuple[Vector, bool]:
        """Next observation (x, y, vx, vy), and whether a wall was touched."""
        self.data.qpos[:], self.data.qvel[:] = observation[:2], np.clip(observation[2:], -5.0, 5.0)
        mujoco.mj_forward(self.model, self.data)
        self.data.ctrl[:] = np.clip(action, -1.0, 1.0)
        mujoco.mj_step(self.model, self.data)
        return np.concatenate([self.data.qpos, self.data.qvel]), int(self.data.ncon) > 1  # one contact is the floor
