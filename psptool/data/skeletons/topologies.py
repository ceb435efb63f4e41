"""The skeleton topologies: 25 Kinect-v2 joints (NTU RGB+D) and 20 Kinect-v1 joints (NW-UCLA).

Joint numbers in the tables are 1-based, as in the datasets' documentation; `Topology` stores 0-based indices.
"""

from __future__ import annotations

from psptool.data.skeletons.topology import Topology, groups, mirror, pairs

NTU25 = Topology(
    name="ntu25",
    joints=(
        "base of the spine", "middle of the spine", "neck", "head",
        "left shoulder", "left elbow", "left wrist", "left hand",
        "right shoulder", "right elbow", "right wrist", "right hand",
        "left hip", "left knee", "left ankle", "left foot",
        "right hip", "right knee", "right ankle", "right foot",
        "spine", "tip of the left hand", "left thumb", "tip of the right hand", "right thumb",
    ),
    bones=pairs(
        (1, 2), (2, 21), (21, 3), (3, 4),
        (21, 5), (5, 6), (6, 7), (7, 8), (8, 22), (8, 23),
        (21, 9), (9, 10), (10, 11), (11, 12), (12, 24), (12, 25),
        (1, 13), (13, 14), (14, 15), (15, 16),
        (1, 17), (17, 18), (18, 19), (19, 20),
    ),
    parts=groups(
        spine=(1, 2, 21), head=(3, 4),
        left_arm=(5, 6, 7), left_hand=(8, 22, 23), right_arm=(9, 10, 11), right_hand=(12, 24, 25),
        left_leg=(13, 14), left_foot=(15, 16), right_leg=(17, 18), right_foot=(19, 20),
    ),
    regions=groups(
        left_arm=(5, 6, 7, 8, 22, 23), right_arm=(9, 10, 11, 12, 24, 25),
        left_leg=(13, 14, 15, 16), right_leg=(17, 18, 19, 20), trunk=(1, 2, 3, 4, 21),
    ),
    mirror=mirror(
        25, (5, 9), (6, 10), (7, 11), (8, 12), (13, 17), (14, 18), (15, 19), (16, 20), (22, 24), (23, 25)
    ),
    center=0,
    spine=(0, 20),
    shoulders=(8, 4),
    ankles=(14, 18),
    released_across=(20, 5),
)  # fmt: skip

UCLA20 = Topology(
    name="ucla20",
    joints=(
        "hip centre", "spine", "shoulder centre", "head",
        "left shoulder", "left elbow", "left wrist", "left hand",
        "right shoulder", "right elbow", "right wrist", "right hand",
        "left hip", "left knee", "left ankle", "left foot",
        "right hip", "right knee", "right ankle", "right foot",
    ),
    bones=pairs(
        (1, 2), (2, 3), (3, 4),
        (3, 5), (5, 6), (6, 7), (7, 8),
        (3, 9), (9, 10), (10, 11), (11, 12),
        (1, 13), (13, 14), (14, 15), (15, 16),
        (1, 17), (17, 18), (18, 19), (19, 20),
    ),
    # The authors published no part groups for NW-UCLA; these follow NTU's by analogy.
    parts=groups(
        spine=(1, 2), head=(3, 4),
        left_arm=(5, 6, 7), left_hand=(8,), right_arm=(9, 10, 11), right_hand=(12,),
        left_leg=(13, 14), left_foot=(15, 16), right_leg=(17, 18), right_foot=(19, 20),
    ),
    regions=groups(
        left_arm=(5, 6, 7, 8), right_arm=(9, 10, 11, 12),
        left_leg=(13, 14, 15, 16), right_leg=(17, 18, 19, 20), trunk=(1, 2, 3, 4),
    ),
    mirror=mirror(20, (5, 9), (6, 10), (7, 11), (8, 12), (13, 17), (14, 18), (15, 19), (16, 20)),
    center=0,
    spine=(0, 2),
    shoulders=(8, 4),
    ankles=(14, 18),
    released_across=(2, 5),
)  # fmt: skip

TOPOLOGIES = {topology.name: topology for topology in (NTU25, UCLA20)}
