"""The scene: real agents push what they see of this machine into a daemon that is killed and started again.

Everything runs on loopback, from packages that are unpacked beside the project and installed nowhere.
"""
