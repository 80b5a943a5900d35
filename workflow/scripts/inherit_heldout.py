"""Items that none of the alignments that a derived one is made of was trained on."""

from spillover.core.files import read_table, write_table
from spillover.core.logs import log_to
from spillover.data.samples import heldout_by_all

with log_to(snakemake.log[0]):
    write_table(heldout_by_all(list(map(read_table, snakemake.input))), snakemake.output[0])
