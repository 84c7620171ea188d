//! Mutants: one small change of a kernel's PTX, made when its module is loaded. `docs/mutants.md` has the operators and the
//! rules; nothing here decides what a mutant means.

mod edit;
mod operators;

use serde::{Deserialize, Serialize};

use crate::ptx::ast::Module;

/// A place where an operator applies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Hash of the module's text: see [`hash`].
    pub module: String,
    /// Kernel or function.
    pub kernel: String,
    /// Operator.
    pub operator: String,
    /// Number among the sites of this operator in this kernel.
    pub ordinal: u32,
    /// Line of the PTX text.
    pub line: u32,
    /// What is changed into what.
    pub change: String,
}

impl Site {
    /// As `HADAL_EMU_MUTATE` takes it.
    pub fn spec(&self) -> String {
        let at = if self.module.is_empty() { "" } else { "@" };
        format!(
            "{}{at}{}:{}:{}",
            self.kernel, self.module, self.operator, self.ordinal
        )
    }
}

/// The first eight hexadecimal digits of the FNV-1a-64 hash of a module's text.
pub fn hash(text: &str) -> String {
    let h = text.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    format!("{:08x}", h >> 32)
}

/// Which mutant is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    kernel: String,
    module: Option<String>,
    operator: String,
    ordinal: u32,
}

impl Spec {
    /// Reads `KERNEL[@HASH]:OPERATOR:ORDINAL`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no mutant: expected KERNEL[@HASH]:OPERATOR:ORDINAL");
        let mut parts = text.rsplitn(3, ':');
        let ordinal = parts
            .next()
            .and_then(|o| o.parse().ok())
            .ok_or_else(wrong)?;
        let operator = parts.next().ok_or_else(wrong)?.to_string();
        let kernel = parts.next().ok_or_else(wrong)?;
        if !operators::NAMES.contains(&operator.as_str()) && operator != MAP_SWIZZLE {
            return Err(format!(
                "`{operator}` is no operator; there are {}, {MAP_SWIZZLE}",
                operators::NAMES.join(", ")
            ));
        }
        let (kernel, module) = match kernel.split_once('@') {
            Some((k, m)) => (k.to_string(), Some(m.to_string())),
            None => (kernel.to_string(), None),
        };
        Ok(Self {
            kernel,
            module,
            operator,
            ordinal,
        })
    }

    /// Whether this is the tensor map with number `ordinal` among those that the program encodes with a swizzle.
    pub fn is_map(&self, ordinal: u32) -> bool {
        self.operator == MAP_SWIZZLE && self.ordinal == ordinal
    }
}

/// Kernel name of sites that are tensor maps, and their operator.
pub const MAP: &str = "tensor-map";
/// See [`MAP`].
pub const MAP_SWIZZLE: &str = "map-swizzle";

/// All sites of a module.
pub fn sites(module: &Module, text: &str) -> Vec<Site> {
    let hash = hash(text);
    let mut out = Vec::new();
    for f in module.functions.iter().filter(|f| f.defined) {
        out.extend(operators::candidates(f).into_iter().map(|c| Site {
            module: hash.clone(),
            kernel: f.name.clone(),
            operator: c.operator.into(),
            ordinal: c.ordinal,
            line: f.body[c.edit.at()].span.line,
            change: c.edit.describe(f),
        }));
    }
    out
}

/// Changes `module` if `spec` means it. Answers whether it did.
pub fn apply(module: &mut Module, text: &str, spec: &Spec) -> bool {
    if spec.module.as_ref().is_some_and(|m| *m != hash(text)) {
        return false;
    }
    let wanted = |f: &&mut crate::ptx::ast::Function| f.defined && f.name == spec.kernel;
    let Some(f) = module.functions.iter_mut().find(wanted) else {
        return false;
    };
    let all = operators::candidates(f);
    let hit = all
        .into_iter()
        .find(|c| c.operator == spec.operator && c.ordinal == spec.ordinal);
    let Some(c) = hit else { return false };
    c.edit.perform(f);
    true
}

#[cfg(test)]
mod tests;
