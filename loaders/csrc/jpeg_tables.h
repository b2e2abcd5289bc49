// Checks that a JPEG file contains all the tables and scans that it needs.
//
// libjpeg keeps Huffman and quantisation tables from file to file, so a file that lacks a table (as
// frames of Motion-JPEG do) would be decoded with that of the previous file.
#pragma once

#include <cstdio>  // jpeglib.h needs it
#include <jpeglib.h>

namespace fastimae {

// Marks all tables as left from another file. Call it before each file, after a setjmp.
void forget_tables(jpeg_decompress_struct* info);

// Whether the file has defined the Huffman tables of the current scan.
bool has_own_huffman_tables(const jpeg_decompress_struct& info);

// After jpeg_start_decompress: whether the file has defined the quantisation tables.
bool has_own_quantisation_tables(const jpeg_decompress_struct& info);

// After jpeg_start_decompress: whether each coefficient was sent to its last bit. If not, libjpeg
// smooths over the missing ones, which reaches across windows and differs between its versions.
bool has_all_scans(const jpeg_decompress_struct& info);

}  // namespace fastimae
