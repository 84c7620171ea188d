//! What must not compile. Half a minute from a warm build.

#[test]
fn refused_by_the_compiler() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
