"""`python -m wm_pipelines.cli`, and what `accelerate launch -m` starts."""

from wm_pipelines.cli import main

if __name__ == "__main__":
    main()
