"""LoRA adapters: spec, routed layer, attach/detach, files, merging. The only user of PEFT.

Nothing is imported here, so that a plan can read specs without loading PEFT.
"""
