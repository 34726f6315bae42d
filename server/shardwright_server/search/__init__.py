"""The search for a plan: pure functions of a problem, a cost model and a time budget.

Shapes in this package: `s` states or shards, `l` lanes, `g` groups, `p` plans, `w` devices
(world size), `e` numbers of an encoding. The way through it: `cost_model` (whom we ask) ->
`pieces` (what is placed) -> `cost` (what a plan costs) -> `placement` (where pieces go) -> `beam`
(how tables are cut); `algorithms` names the searches, `baselines` are what users compare with.
"""
