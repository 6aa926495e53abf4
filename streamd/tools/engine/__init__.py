"""The engine toolchain: from an ONNX graph to checked plans in an engine version's folder.

Packages import only those before them: graph, precision, plan, output, gate, bench, commands. `flags` and `progress`
stand beside them and import nothing heavy. The daemon imports none of it.
"""
