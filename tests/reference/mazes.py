"""D4RL's two mazes written down literally as MuJoCo models, from the numbers in its sources, in its own coordinates."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import gymnasium.envs.mujoco as mujoco_env
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


class AntMaze:
    """Gymnasium's ant with the numbers in which D4RL's file differs, between D4RL's boxes of side 4 around its origin."""

    def __init__(self, maze: tuple[str, ...]) -> None:
        tree = ET.parse(Path(mujoco_env.__file__).parent / "assets" / "ant.xml")
        tree.find("option").set("timestep", "0.02")
        tree.find("default/geom").set("solimp", ".8 .8 .01")
        for motor in tree.findall("actuator/motor"):
            motor.set("gear", "1")
            motor.set("ctrlrange", "-30 30")
        for row, line in enumerate(maze):  # D4RL's map starts at row 1, column 1: the same walls in both mazes
            for column, what in enumerate(line):
                if what == "#":
                    place = {"pos": f"{4 * (column - 1)} {4 * (row - 1)} 1", "size": "2 2 1", "type": "box"}
                    ET.SubElement(tree.find("worldbody"), "geom", {**place, "contype": "1", "conaffinity": "1"})
        self.model: Any = mujoco.MjModel.from_xml_string(ET.tostring(tree.getroot(), encoding="unicode"))
        self.data: Any = mujoco.MjData(self.model)

    def step(self, observation: Vector, action: Vector) -> tuple[Vector, bool]:
        """Next observation of 29 numbers, and whether a wall was touched on the way."""
        self.data.qpos[:], self.data.qvel[:] = observation[:15], observation[15:]
        mujoco.mj_forward(self.model, self.data)
        self.data.ctrl[:] = 30.0 * np.clip(action, -1.0, 1.0)
        touched = False
        for _ in range(5):
            mujoco.mj_step(self.model, self.data)
            boxes = self.model.geom_type[self.data.contact.geom] == mujoco.mjtGeom.mjGEOM_BOX
            touched = touched or bool(boxes.any())
        return np.concatenate([self.data.qpos, self.data.qvel]), touched
