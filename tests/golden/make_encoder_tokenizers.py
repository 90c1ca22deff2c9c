"""Small tokenizers of the kinds that encoders have, with the ids that transformers gives texts, pairs and words.

Run in this folder, with requirements.txt installed:  python make_encoder_tokenizers.py
`encoder-tokenizers/<kind>` holds tokenizer.json and tokenizer_config.json; `encoder-tokenizers/expected.json` the ids,
type ids, and for words which word each token begins.
"""

import json
import pathlib
import shutil

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

folder = pathlib.Path(__file__).parent / "encoder-tokenizers"
TEXTS = ["Ada codes well.", "the cat sat on the mat", "a", "Don't panic — it's fine!", "naïve café"]
CORPUS = TEXTS + ["the cat and the dog sat on mats", "Ada Lovelace codes engines", "well done, the engine codes"]
WORDS = ["Ada", "Lovelace", "codes", "engines", "."]


def wordpiece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=64, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))],
    )
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer, dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")


def bytelevel():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, dict(bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>", pad_token="<pad>",
                           unk_token="<unk>", mask_token="<mask>")


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    tokenizer.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=80, special_tokens=special, unk_token="[UNK]"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer, dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def main():
    shutil.rmtree(folder, ignore_errors=True)
    expected = {}
    for make in (wordpiece, bytelevel, unigram):
        tokenizer, tokens = make()
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens)
        fast.save_pretrained(folder / make.__name__)
        def typed(*texts, **options):
            encoded = fast(*texts, return_token_type_ids=True, **options)
            return {"ids": encoded["input_ids"], "types": encoded["token_type_ids"]}
        spaced = [f" {word}" for word in WORDS] if make is bytelevel else WORDS
        words, begins, seen = fast(spaced, is_split_into_words=True), [], set()
        for word in words.word_ids():
            begins.append(-1 if word is None or word in seen else word)
            seen.add(word)
        expected[make.__name__] = {
            "texts": [typed(text) for text in TEXTS],
            "pair": typed(TEXTS[0], TEXTS[1]),
            "cut": typed(TEXTS[0], TEXTS[1], truncation="longest_first", max_length=9),
            "words": {"ids": words["input_ids"], "begins": begins},
        }
    (folder / "expected.json").write_text(json.dumps({"texts": TEXTS, "words": WORDS, **expected}))


if __name__ == "__main__":
    main()
