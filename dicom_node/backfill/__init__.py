"""Backfill: an archive's past studies, analysed as bulk work over weeks, within limits towards the archive.

A run asks date ranges (C-FIND or QIDO-RS), each of which becomes items, one for a study; or it begins with a list of
items. The leader dispatches ranges and items as BACKFILL jobs (`drive`); a worker does them (`job`) and commits the
row's next state with the job's end. The state machines stand beside the tables (`dicom_node.index.tables.backfill`):

    run    running ⇄ paused → done or cancelled
    range  waiting → asking → listed, or split into two waiting halves, or failed
    item   waiting → fetching → analysing → analysed; skipped or failed with a reason

What makes it safe to kill at any instant: an item's job fetches what is not here yet and counts it, so doing it twice
fetches once; the study is marked and its ANALYSE job enqueued in the commit that ends the BACKFILL job; the end of the
analysis is read from the study's own row. A run's row is locked while it is driven, so that two machines which both
believe to lead dispatch nothing twice.
"""
