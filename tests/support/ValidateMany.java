// Runs PixelMed's SR validator over many files in one process: its templates take seconds to load.
//
// Nine tenths of a file's time go into reading the context groups (a megabyte of XML) anew for each template that names
// one. They are the same for every file, so they are parsed once. Every other document is left to the validator: it
// writes what a file's first pass has found into one and reads it back in the second.

import com.pixelmed.validate.DicomSRValidator;
import java.lang.reflect.Field;
import javax.xml.transform.Source;
import javax.xml.transform.Transformer;
import javax.xml.transform.TransformerFactory;
import javax.xml.transform.TransformerException;
import javax.xml.transform.URIResolver;
import javax.xml.transform.dom.DOMResult;
import javax.xml.transform.dom.DOMSource;

public class ValidateMany {
    private static final String CONTEXT_GROUPS = "DicomContextGroupsSource.xml";

    public static void main(String[] files) throws Exception {
        DicomSRValidator validator = new DicomSRValidator();
        for (Field field : DicomSRValidator.class.getDeclaredFields()) {
            if (Transformer.class.isAssignableFrom(field.getType())) {
                field.setAccessible(true);
                Transformer transformer = (Transformer) field.get(validator);
                transformer.setURIResolver(new KeepsContextGroups(transformer.getURIResolver()));
            }
        }
        for (String file : files) {
            System.out.println("FILE " + file);
            System.out.println(validator.validate(file));
        }
    }

    private static class KeepsContextGroups implements URIResolver {
        private final URIResolver validators;
        private Source kept;

        KeepsContextGroups(URIResolver validators) {
            this.validators = validators;
        }

        public Source resolve(String href, String base) throws TransformerException {
            if (!href.endsWith(CONTEXT_GROUPS)) {
                return validators.resolve(href, base);
            }
            if (kept == null) {
                Source read = validators.resolve(href, base);
                DOMResult document = new DOMResult();
                TransformerFactory.newInstance().newTransformer().transform(read, document);
                kept = new DOMSource(document.getNode(), read.getSystemId());
            }
            return kept;
        }
    }
}
