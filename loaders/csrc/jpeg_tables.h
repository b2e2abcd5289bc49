// Whether a JPEG file brings all that is needed to decode it.
//
// libjpeg keeps Huffman and quantisation tables from file to file, so one that lacks a table (as
// frames of Motion-JPEG do) would be decoded with that of whichever file came before.
#pragma once

#include <cstdio>  // jpeglib.h needs it
#include <jpeglib.h>

namespace fastimae {

// Marks all tables as left from another file. To be called before each file, below a setjmp.
void forget_tables(jpeg_decompress_struct* info);

// Whether the file has defined the Huffman tables of the present scan.
bool has_own_huffman_tables(const jpeg_decompress_struct& info);

// After jpeg_start_decompress: whether the file has defined the quantisation tables.
bool has_own_quantisation_tables(const jpeg_decompress_struct& info);

// After jpeg_start_decompress: whether each coefficient was sent to its last bit. If not, libjpeg
// smooths what is missing, which reaches across windows and differs between its versions.
bool has_all_scans(const jpeg_decompress_struct& info);

}  // namespace fastimae
