"""Minecraft as a Gymnasium environment, through MineStudio's simulator. Importing this loads neither torch nor MineStudio."""
