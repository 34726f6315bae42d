"""The search for a plan: pure functions of a problem, a cost model and a time budget.

Shapes in this package: `s` states or shards, `l` lanes, `g` groups, `p` plans, `w` devices
(world size), `e` numbers of an encoding. The way through it: `cost_model` (whom we ask) ->
`pieces` (what is placed) -> `cost` (what a plan costs). From there NEUROSHARD goes `placement`
(where pieces go) -> `beam` (how tables are cut); LOCAL_SEARCH goes `lots` (what is cut and moved,
and the constraints on it) -> `cuts`, `placing`, `packing` (first plans) -> `lanes`, `lane_book`,
`objective`, `slopes`, `proposals`, `taking`, `swarm`, `repack` (better ones, in compiled loops) ->
`assignment` (a plan again) -> `local_search`. `algorithms` names the searches, `baselines` are what
users compare with, `bound` says how good a plan can be at best,
`capacity` and `advice` explain why there is none.
"""
