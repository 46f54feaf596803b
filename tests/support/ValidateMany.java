// Runs PixelMed's SR validator over many files in one process: its templates take seconds to load.

import com.pixelmed.validate.DicomSRValidator;

public class ValidateMany {
    public static void main(String[] files) throws Exception {
        DicomSRValidator validator = new DicomSRValidator();
        for (String file : files) {
            System.out.println("FILE " + file);
            System.out.println(validator.validate(file));
        }
    }
}
