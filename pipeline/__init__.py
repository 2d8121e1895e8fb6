"""A run, from the job file to the served model. Imports only go down this list of rooms:

* ``cli``: the command line, one module a command.
* ``runners``: where a job runs, in this process or on Ray.
* ``report``: the HTML page of a run or a bench. ``bench``: scenarios x learners x seeds.
* ``tracking``: delivery of metrics to MLflow, webhooks. ``callbacks``: observers of a run.
* ``serving``: HTTP predictions and labels. ``training``: the run, resume, loop and event fates.
* ``models``: the recipe of a model, and snapshots to serve.
* ``evaluation``: metrics of learning and forgetting. ``dead_letters``: events that were refused.
* ``storage``: the run folder, checkpoints, offset journal, metric log and recordings.
* ``config``: the job file. ``signals``: SIGINT and SIGTERM.
"""
