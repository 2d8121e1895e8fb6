"""The blocks of transformers, as functions of frozen weights.

- ``linear`` holds the weights of a linear map, and multiplies by them.
- ``attention`` puts keys and values before those of a block.
- ``bert_block`` holds the blocks of BERT.

Encoders run them alone; backbones put small trained parts between.
"""
