//! Keys of the network.

use super::{Key, Section};
use crate::config::parse::{boolean, choice, integer, name_of, number, put, size};
use crate::config::{Activation, NormPlacement, Objective, Positions};

/// Longest sequence; the work of attention grows with its square.
pub(in crate::config) const MAX_LEN: u64 = 65_535;

const ACTIVATIONS: &[(&str, Activation)] =
    &[("gelu", Activation::Gelu), ("gelu_tanh", Activation::GeluTanh), ("relu", Activation::Relu)];

const NORMS: &[(&str, NormPlacement)] =
    &[("post", NormPlacement::Post), ("pre", NormPlacement::Pre)];

const POSITIONS: &[(&str, Positions)] =
    &[("absolute", Positions::Absolute), ("from_end", Positions::FromEnd)];

const OBJECTIVES: &[(&str, Objective)] =
    &[("cloze", Objective::Cloze), ("causal", Objective::Causal)];

pub(super) const KEYS: &[Key] = &[
    Section::Model.key(
        "hidden_size",
        "N",
        "Width of the model",
        |c| Some(c.model.hidden_size.into()),
        |c, v| put(&mut c.model.hidden_size, size(v, 1)),
    ),
    Section::Model.key(
        "n_layers",
        "N",
        "Number of transformer layers",
        |c| Some(c.model.n_layers.into()),
        |c, v| put(&mut c.model.n_layers, size(v, 1)),
    ),
    Section::Model.key(
        "n_heads",
        "N",
        "Attention heads; a divisor of hidden_size",
        |c| Some(c.model.n_heads.into()),
        |c, v| put(&mut c.model.n_heads, size(v, 1)),
    ),
    Section::Model.key(
        "inner_size",
        "N",
        "Width of the feed-forward layers",
        |c| Some(c.model.inner_size.into()),
        |c, v| put(&mut c.model.inner_size, size(v, 1)),
    ),
    Section::Model
        .key(
            "MAX_ITEM_LIST_LENGTH",
            "N",
            "Longest sequence the model sees, the position to predict included",
            |c| Some(c.model.max_len.into()),
            |c, v| put(&mut c.model.max_len, integer(v, 2, MAX_LEN).map(|n| n as usize)),
        )
        .aliases(&["max_len"]),
    Section::Model.key(
        "hidden_act",
        "NAME",
        "Activation of the feed-forward layers: gelu, gelu_tanh or relu",
        |c| Some(name_of(c.model.hidden_act, ACTIVATIONS)),
        |c, v| put(&mut c.model.hidden_act, choice(v, ACTIVATIONS)),
    ),
    Section::Model.key(
        "norm",
        "WHERE",
        "Layer normalisation after each sublayer (post, as in the paper) or before it (pre)",
        |c| Some(name_of(c.model.norm, NORMS)),
        |c, v| put(&mut c.model.norm, choice(v, NORMS)),
    ),
    Section::Model.key(
        "positions",
        "HOW",
        "Count positions from the oldest item (absolute) or from the newest (from_end)",
        |c| Some(name_of(c.model.positions, POSITIONS)),
        |c, v| put(&mut c.model.positions, choice(v, POSITIONS)),
    ),
    Section::Model.key(
        "objective",
        "NAME",
        "Predict masked items from both sides (cloze: BERT4Rec) or at every item the next from those so far \
         (causal: SASRec)",
        |c| Some(name_of(c.model.objective, OBJECTIVES)),
        |c, v| put(&mut c.model.objective, choice(v, OBJECTIVES)),
    ),
    Section::Model.key(
        "tie_embeddings",
        "",
        "Score items by their input embeddings; false gives the output a matrix of its own",
        |c| Some(c.model.tied.into()),
        |c, v| put(&mut c.model.tied, boolean(v)),
    ),
    Section::Model.key(
        "hidden_dropout_prob",
        "P",
        "Dropout of embeddings and sublayer outputs",
        |c| Some(c.model.hidden_dropout.into()),
        |c, v| put(&mut c.model.hidden_dropout, number(v)),
    ),
    Section::Model.key(
        "attn_dropout_prob",
        "P",
        "Dropout of attention weights",
        |c| Some(c.model.attention_dropout.into()),
        |c, v| put(&mut c.model.attention_dropout, number(v)),
    ),
    Section::Model.key(
        "layer_norm_eps",
        "X",
        "Added to the variance in layer normalisation",
        |c| Some(c.model.layer_norm_eps.into()),
        |c, v| put(&mut c.model.layer_norm_eps, number(v).map(|x| x as f32)),
    ),
    Section::Model.key(
        "initializer_range",
        "X",
        "Standard deviation of the initial weights",
        |c| Some(c.model.initializer_range.into()),
        |c, v| put(&mut c.model.initializer_range, number(v)),
    ),
];
