//! GGUF import: an outside writer's file, the project's own checkpoints written as GGUF, damaged files, vocabularies.

mod blocks;
mod builder;
mod checkpoints;
mod damage;
mod exercise;
mod tokenizers;
