"""Launches and watches the confined child in which every untrusted file is opened and run.

Parent side: `child`, `watch`, `pipes`, `scratch`, `limits`, `support`, `errors`. Child side, before any
heavy import: `entry`, `confinement`, `identity`, `landlock`. `syscalls` compiles in the parent what the
child loads. This file stays empty of imports because the child reads it as root, unconfined.
"""
