"""An HTTP server that speaks OpenAI's interfaces; `gptoss-mlx serve` starts it. It holds no logic of the model.

Needs the extra: `pip install 'gptoss-mlx[serve]'`. Only this folder knows HTTP.
"""
