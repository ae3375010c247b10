"""The subcommands of `qlens`, one file each; heavy imports happen inside them."""
