"""Make a companion set's item table: read, every fact relied upon asserted, sampled."""

from spillover.core.files import read_table, write_table
from spillover.core.logs import log_to
from spillover.data import companions, own_companions

with log_to(snakemake.log[0]):
    name, params, source = snakemake.wildcards.set, snakemake.params, snakemake.input[0]
    if params.own:
        rows = own_companions.items(f"companions.own.{name}", params.own, read_table(source))
        items = companions.complete(name, rows)
    else:
        items = companions.prepare(name, companions.read_folder(source, params.pin), params.pin)
    write_table(companions.sample(items, params.max_items), snakemake.output[0])
