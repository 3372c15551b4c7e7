//! What is embedded beside the machine code, with and without nvcc.

#[path = "../../kernels/manifest.rs"]
#[allow(dead_code)]
mod source;

use b4r::cuda::kernels::{HASH, MODULES, TOOLKIT};
use std::fs;
use std::path::Path;

/// The numbers that a fatbin begins with.
const FATBIN: [u8; 4] = 0xBA55_ED50_u32.to_le_bytes();

#[test]
fn the_hash_covers_names_and_contents_of_all_sources() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let hash = || source::hash(folder.path()).unwrap();
    // SHA-256 of nothing.
    assert_eq!(hash(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    write("b.cu", "KERNEL(b)");
    write("common/a.cuh", "two\nlines\n");
    // printf 'b.cu\0\x09\0\0\0\0\0\0\0KERNEL(b)common/a.cuh\0\x0a\0\0\0\0\0\0\0two\nlines\n' | sha256sum
    let both = "8ae6f899582ba8e03b62f5e94b801ce295232eb802079c531d9f71383cb28c19";
    assert_eq!(hash(), both);
    write("notes.md", "no source");
    assert_eq!(hash(), both);
    write("b.cu", "KERNEL(c)");
    assert_ne!(hash(), both);
}

#[test]
fn kernel_names_are_read_from_the_source() {
    let text = "#define KERNEL(name, threads) void name()\n\
                // KERNEL(commented, 32)\n\
                /* KERNEL(also_commented, 32)\n KERNEL(still) */ KERNEL(first, 32, 1, A, f<float>)\n\
                KERNEL ( second_bf16 ,\n 64, 2, A, (g<bf16, 64>)) MY_KERNEL(not_this, 1) KERNELS(nor_this)\n\
                #  define ALL(name) KERNEL(name##_f32, 32)\n";
    assert_eq!(source::kernel_names(text), ["first", "second_bf16"]);
    assert_eq!(source::kernel_names(""), Vec::<String>::new());
}

/// The software GPU, and the messages of a real driver's refusal, rely on it.
#[test]
fn images_are_a_fatbin_if_any_and_a_manifest() {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    assert_eq!(HASH, source::hash(&kernels).unwrap());
    for module in MODULES {
        let text = fs::read_to_string(kernels.join(format!("{}.cu", module.name))).unwrap();
        let names = source::kernel_names(&text);
        assert!(names == module.kernels && !names.is_empty(), "{}", module.name);
        let manifest = source::manifest(HASH, TOOLKIT, &names);
        assert!(manifest.starts_with("b4r-kernels 1\nhash ") && manifest.ends_with("\nend\n"));
        let fatbin = module.image.strip_suffix(manifest.as_bytes()).expect("a manifest at the end");
        assert_eq!(fatbin.is_empty(), TOOLKIT.is_none(), "{}", module.name);
        assert!(fatbin.is_empty() || fatbin.starts_with(&FATBIN), "{}", module.name);
        assert_eq!(module.image.as_ptr().align_offset(64), 0, "{}", module.name);
        if !fatbin.is_empty() {
            // Its header knows its length, so that a driver stops there: magic, version, bytes of the header
            // and of what follows it.
            let header = u16::from_le_bytes([fatbin[6], fatbin[7]]) as usize;
            let rest = u64::from_le_bytes(fatbin[8..16].try_into().unwrap()) as usize;
            assert_eq!(header + rest, fatbin.len(), "{}", module.name);
        }
    }
    let mut names: Vec<_> = MODULES.iter().flat_map(|module| module.kernels).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "a kernel stands in two files");
}
