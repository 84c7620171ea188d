//! PTX text, checked and resolved.

pub mod ast;
mod body;
mod lexer;
mod operand;
mod parser;

use std::collections::HashMap;

pub use parser::NEWEST;

/// Parses a module. A trailing NUL, as C callers pass, is allowed.
///
/// # Errors
/// The first thing that is not PTX, or that is PTX not supported here, with its place.
pub fn parse(text: &str) -> Result<ast::Module, ast::PtxError> {
    let toks = lexer::lex(text.trim_end_matches('\0'))?;
    let module = ast::Module {
        version: (0, 0),
        target: String::new(),
        target_options: Vec::new(),
        variables: Vec::new(),
        functions: Vec::new(),
        files: Vec::new(),
    };
    parser::Parser {
        toks,
        at: 0,
        module,
        globals: HashMap::new(),
        functions: HashMap::new(),
        loc: None,
        depth: 0,
    }
    .module()
}
