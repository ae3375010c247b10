"""The `d_model` x `d_model` operators of every site: passes, plan, build, files, the demo's."""
